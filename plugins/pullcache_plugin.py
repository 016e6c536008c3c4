"""
The C{pullcache} command of C{twistd}.

Twisted imports this file to list its commands, before the reactor is chosen: nothing here may import what installs one
(klein does). L{ServiceMaker} imports C{appliance.tap} only when the command is run.
"""

from twisted.application.service import ServiceMaker

pullcache = ServiceMaker(
    "pullcache", "appliance.tap", "A pull-through OCI registry cache for sites with little or no internet.", "pullcache"
)
