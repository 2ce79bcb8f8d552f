"""A load generator for gRPC that reads ghz's configuration files and writes ghz's JSON report (https://ghz.sh).

It needs no Go. What it does follows the source of ghz v0.121, whose places the modules name; nothing of it is copied.
"""
