"""Paths, sockets, processes and the database, behind the domain's ports."""
