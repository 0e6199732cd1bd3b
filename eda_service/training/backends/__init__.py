"""What takes a training step: DeepSpeed in a group of workers, or plain torch in one process."""
