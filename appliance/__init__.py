"""pullcache: a pull-through OCI registry cache for sites with little or no internet."""

__version__ = "0.1.0"
