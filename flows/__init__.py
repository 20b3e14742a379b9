"""When and where a step runs: Prefect flows and the `othink` command."""
