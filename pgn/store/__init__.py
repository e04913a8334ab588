"""Where bundles and backbones live: a local folder today, the layout of docs/model-store.md."""
