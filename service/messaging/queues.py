"""The two queues that workers listen to, by name. Apart from `celery_app`, so that naming them loads no Celery."""

DELETIONS = "deletions"
ADDITIONS = "additions"
QUEUES = (DELETIONS, ADDITIONS)  # in the order in which a worker listens to them
