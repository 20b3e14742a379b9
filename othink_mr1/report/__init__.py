"""The results as one HTML file for people, and as Markdown for Prefect's page of a run."""
