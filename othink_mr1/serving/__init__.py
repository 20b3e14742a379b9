"""A trained model that answers questions: in Python, on the command line, and behind MLflow's model server."""
