"""Kept for the plugins of sites, which were promised this import path; the kinds are in C{appliance.upstream.kinds}."""
