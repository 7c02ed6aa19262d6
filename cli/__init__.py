"""The chi33 command line, one thin file a command."""
