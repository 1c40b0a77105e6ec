"""The numpy twin of every kernel."""
