"""The Celery edge: thin tasks around `service.core`, one process a device."""
