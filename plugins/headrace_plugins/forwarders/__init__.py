"""Built-in forwarders."""
