"""One module for each subcommand of `othink`, imported only when it is called."""
