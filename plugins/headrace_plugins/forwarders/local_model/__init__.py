"""What is below `forwarder: local`: the model's file, its server, and the process that runs it."""
