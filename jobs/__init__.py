"""What runs by itself, and when. Jobs sit on top of the pipeline; nothing below knows them."""
