"""The plugins, forwarders, dialects and observers that come with Headrace."""
