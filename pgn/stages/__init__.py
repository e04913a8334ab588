"""The two stages of the workflow as plain objects: rows in, one answer a row out. Nothing here knows TorchServe."""
