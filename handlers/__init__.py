"""What TorchServe loads: one thin handler a stage, the workflow's specification, the server's log settings."""
