"""The pullcache command: talks to the admin endpoint of an appliance."""
