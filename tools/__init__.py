"""What developers run beside the product: generated pages, the documentation site, checks of what documents say."""
