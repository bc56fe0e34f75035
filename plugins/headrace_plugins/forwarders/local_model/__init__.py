"""What stands below `forwarder: local`: the model's file, its server, and the child that runs it."""
