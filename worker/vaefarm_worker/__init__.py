"""The worker: take jobs off the queue, decode, encode, store."""
