"""The HTTP door: reads and decodes images, asks the workflow's two stages one after the other. Never torch."""
