"""The names of the two queues that workers listen to; importing this module loads no Celery."""

DELETIONS = "deletions"
ADDITIONS = "additions"
QUEUES = (DELETIONS, ADDITIONS)  # in the order in which a worker listens to them
