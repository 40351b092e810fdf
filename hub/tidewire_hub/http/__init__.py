"""What the hub serves over HTTP. Needs the extra `hub`."""
