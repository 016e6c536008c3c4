"""The import path that plugins of sites were promised; what stood here is in C{appliance.upstream.kinds}."""
