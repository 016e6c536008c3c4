"""See L{appliance.upstream.kinds.standard}."""

from appliance.upstream.kinds.standard import Standard

__all__ = ["Standard"]
