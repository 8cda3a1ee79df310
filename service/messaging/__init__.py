"""Messages between processes: notifications without content, and how Celery and its brokers carry them."""
