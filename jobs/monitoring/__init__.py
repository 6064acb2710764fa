"""What a run shows to the outside: metrics, notifications, the webhook. Nothing here decides what a run does."""
