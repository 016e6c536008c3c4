"""The configuration: what is wrong is named with its line, its key and its cure."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import config
from appliance.errors import ConfigError
from appliance.yamltree import LIMIT
from tests.rooms.configuration import ONE, PUBLIC_KEY, fault

WRONG_KEYS = [
    ("stroe: /x", "stroe", "did you mean store"),
    ('"a\\nb": 1', "'a\\nb'", "unknown key"),
    ("store: yes", "store", "true is a truth value"),
    ("store: [a]", "store", "a list stands where text"),
    ("store: ''", "store", "''"),
    ('store: "a\\nb"', "store", "not printable"),
    ("offline: maybe", "offline", "'maybe' is neither true nor false"),
    ("offline: 1", "offline", "'1' is neither"),
    ("access_log: on", "access_log", "true is a truth value to YAML; write - or off"),
    ("access_log: ~", "access_log", "nothing stands where text"),
    ("access_log: /", "access_log", "'/' is no file"),
    ("access_log: gone/p.log", "access_log", "no file at /etc/gone/p.log"),
    ("shutdown_grace: 10", "shutdown_grace", "'10' is no duration"),
    ("shutdown_grace: ~", "shutdown_grace", "nothing stands where text"),
    ("connections: ~", "connections", "nothing stands where keys"),
    ("connections: {maximum: 1}", "connections.maximum", "unknown key"),
    ("connections: {max: 0}", "connections.max", "'0' is no whole number from 1"),
    ("connections: {max_per_address: many}", "connections.max_per_address", "'many' is no whole number"),
    ("connections: {head_timeout: 30}", "connections.head_timeout", "'30' is no duration"),
    ("connections: {stall_timeout: 0}", "connections.stall_timeout", "give at least 1s"),
    ("bundles: ~", "bundles", "nothing stands where keys"),
    ("bundles: {trusted: []}", "bundles.trusted", "did you mean trust"),
    ("bundles: {accept_callers_keys: all}", "bundles.accept_callers_keys", "true nor false"),
    ("bundles: {aliases: cache.site}", "bundles.aliases", "stands where a list"),
    ("bundles: {aliases: [https://cache.site]}", "bundles.aliases[0]", "without https://"),
    ('bundles: {aliases: ["*.site"]}', "bundles.aliases[0]", "write each HOST"),
    ("bundles: {aliases: [a, b.io]}\nupstreams: {b.io: {url: https://b.io}}", "bundles.aliases[1]", "upstream b.io"),
    ("bundles: {trust: RWQ}", "bundles.trust", "stands where a list"),
    ("bundles: {trust: [RWQ]}", "bundles.trust[0]", "begins with RW"),
    (f"bundles: {{trust: [{PUBLIC_KEY}, x{PUBLIC_KEY[1:]}]}}", "bundles.trust[1]", "second line"),
    ("bundles: {require_signature: 1}", "bundles.require_signature", "'1' is neither"),
    ("bundles: {inbox: /no/such}", "bundles.inbox", "no folder at /no/such"),
    ("bundles: {site: a b}", "bundles.site", "'a b' is no name for a site"),
    ("scrub: {every: 30}", "scrub.every", "'30' is no duration; write a whole number with a unit"),
    ("scrub: {every: 1m}", "scrub.every", "'1m' is less than an hour; write a duration such as 30d, or never"),
    ("scrub: {every: 0}", "scrub.every", "less than an hour"),
    ("scrub: {rate: 50}", "scrub.rate", "'50' is no rate; write a size per second"),
    ("scrub: {rate: ~}", "scrub.rate", "nothing stands where text is wanted"),
    ("retention: 7d", "retention", "'7d' stands where keys"),
    ("retention: {keep_for: 7}", "retention.keep_for", "'7' is no duration; write a whole number with a unit"),
    ("retention: {keep_for: 0}", "retention.keep_for", "keeps nothing; write a duration such as 7d; or write unlimit"),
    ("retention: {max_size: 200}", "retention.max_size", "'200' is no size; write a whole number with a unit"),
    ("retention: {max_size: 0B}", "retention.max_size", "keeps nothing"),
    ("retention: {keep_last: 0}", "retention.keep_last", "'0' is no whole number from 1 to"),
    ("retention: {keep: nginx}", "retention.keep", "stands where a list"),
    ("retention: {keep: [Nginx]}", "retention.keep[0]", "'Nginx' is no reference and no pattern"),
    ("retention: {keep: ['a b']}", "retention.keep[0]", "'a b' is no reference and no pattern"),
    ("retention: {reserve: 5}", "retention.reserve", "'5' is no size; write a whole number with a unit: 100B, 512MiB"),
    ("retention: {reserve: 120%}", "retention.reserve", "'120%' leaves nothing of the disk"),
    ("retention: {reserve: -5%}", "retention.reserve", "or a share of the disk: 5%"),
    ("retention: {grace: 60}", "retention.grace", "'60' is no duration"),
    (ONE % "retention: {keep_for: a week}", "upstreams.ghcr.io.retention.keep_for", "is no duration"),
    (ONE % "retention: {grace: 1h}", "upstreams.ghcr.io.retention.grace", "unknown key; the keys here are keep_for"),
    ("admin: 5001", "admin", "'5001' stands where keys"),
    ("admin: {port: 1}", "admin.port", "the keys here are endpoint"),
    ("admin: {endpoint: 5001}", "admin.endpoint", "tcp:port="),
    ("listen: tcp:port=5000", "listen", "stands where a list"),
    ("listen: []", "listen", "at least one"),
    ("listen: [{}]", "listen[0].endpoint", "missing"),
    ("listen: [{endpoint: 5000}]", "listen[0].endpoint", "'5000' is no endpoint"),
    ("listen: [{endpoint: 'localhost:5000'}]", "listen[0].endpoint", "'localhost:5000' is no endpoint"),
    ("listen: [{endpoint: 'tcp:port=70000'}]", "listen[0].endpoint", "up to 65535"),
    ("listen: [{endpoint: 'tcp:interface=::1'}]", "listen[0].endpoint", "up to 65535"),
    ("listen: [{endpoint: 'tcp:1'}, {endpoint: 'tcp:1'}]", "listen[1].endpoint", "twice"),
    ("listen: [{endpoint: 'tcp:1', hosts: ['https://a']}]", "listen[0].hosts[0]", "is no host; write HOST, HOST:PORT"),
    ("listen: [{endpoint: 'tcp:1', hosts: a}]", "listen[0].hosts", "stands where a list is wanted"),
    ("admin: {endpoint: 'tcp:1', hosts: ['a/b']}", "admin.hosts[0]", "is no host; write HOST, HOST:PORT"),
    ("listen: [{endpoint: 'tcp:1', default_upstream: nowhere}]", "listen[0].default_upstream", "'nowhere' is no upstr"),
    ("upstreams: [ghcr.io]", "upstreams", "a list stands where keys"),
    ("upstreams: {GHCR.io: {url: https://h}}", "upstreams.GHCR.io", "in lower case"),
    ("upstreams: {'..': {url: https://h}}", "upstreams...", "no name for an upstream"),
    ("upstreams: {a/b: {url: https://h}}", "upstreams.a/b", "without /"),
    ("upstreams: {'a:99999': {url: https://h}}", "upstreams.a:99999", "no name for an upstream"),
    ("upstreams: {'a:443': {url: https://h}}", "upstreams.a:443", "leave the port out"),
    ("upstreams: {_layout: {url: https://h}}", "upstreams._layout", "no name for an upstream"),
    ("upstreams: {a: ~}", "upstreams.a", "nothing stands where keys"),
    ("upstreams: {a: {}}", "upstreams.a.url", "missing"),
    ("upstreams: {a: {url: []}}", "upstreams.a.url", "at least one"),
    ("upstreams: {a: {url: [https://h, h]}}", "upstreams.a.url[1]", "'h' is no URL"),
    ("upstreams: {a: {url: ftp://h}}", "upstreams.a.url", "'ftp://h' is no URL"),
    ("upstreams: {a: {url: 'https://'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h:0'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h:x'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h:99999'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://[::1'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h/../x'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h/%2e'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h h'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h/v2/'}}", "upstreams.a.url", "leave it out"),
    ("upstreams: {a: {url: 'https://h?x=1'}}", "upstreams.a.url", "query"),
    ("upstreams: {a: {url: 'https://h#x'}}", "upstreams.a.url", "fragment"),
    ("upstreams: {a: {url: 'https://u:p@h'}}", "upstreams.a.url", "password_file"),
    ("upstreams: {a: {url: h}, b: {url: h}}", "upstreams.a.url", "no URL"),
    (ONE % "fresh_fro: 1m", "upstreams.ghcr.io.fresh_fro", "did you mean fresh_for"),
    (ONE % "password: x", "upstreams.ghcr.io.password", "password_file"),
    (ONE % "kind: Docker Hub", "upstreams.ghcr.io.kind", "'Docker Hub' is no kind; write one word in lower case"),
    (ONE % "kind: ~", "upstreams.ghcr.io.kind", "nothing stands where text"),
    (ONE % "offline: never", "upstreams.ghcr.io.offline", "'never' is neither"),
    (ONE % "fresh_for: 60", "upstreams.ghcr.io.fresh_for", "'60' is no duration"),
    (ONE % "fresh_for: 1:30", "upstreams.ghcr.io.fresh_for", "'1:30' is no duration"),
    (ONE % "fresh_for: 1 m", "upstreams.ghcr.io.fresh_for", "'1 m' is no duration"),
    (ONE % "fresh_for: unlimited", "upstreams.ghcr.io.fresh_for", "'unlimited' is no duration"),
    (
        ONE % "max_stale: forever",
        "upstreams.ghcr.io.max_stale",
        "'forever' is no duration; write a whole number with a unit: 500ms, 90s, 5m, 12h, 7d; or write unlimited",
    ),
    (ONE % "revalidate_within: off", "upstreams.ghcr.io.revalidate_within", "false is a truth value"),
    (ONE % "serve_stale: true", "upstreams.ghcr.io.serve_stale", "true stands where keys"),
    (ONE % "serve_stale: {denid: true}", "upstreams.ghcr.io.serve_stale.denid", "did you mean denied"),
    (ONE % "serve_stale: {denied: 0}", "upstreams.ghcr.io.serve_stale.denied", "'0' is neither"),
    (ONE % "username: no", "upstreams.ghcr.io.username", "quotes"),
    (ONE % "username: me", "upstreams.ghcr.io", "go together"),
    (ONE % "username: 'me:hunter2', password_file: /dev/null", "upstreams.ghcr.io.username", "colon"),
    (ONE % "password_file: /dev/null", "upstreams.ghcr.io", "go together"),
    (ONE % "username: me, password_file: gone", "upstreams.ghcr.io.password_file", "/etc/gone: No such file"),
    (ONE % "ca_file: /", "upstreams.ghcr.io.ca_file", "directory"),
    (ONE % "password_file: ~, username: me", "upstreams.ghcr.io", "go together"),
    (ONE % "token: hunter2", "upstreams.ghcr.io.token", "name that with token_file"),
    (ONE % "token_file: gone", "upstreams.ghcr.io.token_file", "/etc/gone: No such file"),
    (ONE % "auth_file: /", "upstreams.ghcr.io.auth_file", "directory"),
    (
        ONE % "token_file: /dev/null, auth_file: /dev/null",
        "upstreams.ghcr.io",
        "token_file and auth_file are both credentials; keep one",
    ),
    (
        ONE % "username: me, password_file: /dev/null, token_file: /dev/null",
        "upstreams.ghcr.io",
        "username with password_file and token_file are both",
    ),
    (ONE % "credentials: aws, auth_file: /dev/null", "upstreams.ghcr.io", "auth_file and credentials: aws are both"),
    (ONE % "credentials: AWS", "upstreams.ghcr.io.credentials", "'AWS' is not one of aws"),
    (
        ONE % "revalidate: sometimes",
        "upstreams.ghcr.io.revalidate",
        "'sometimes' is no duration; write a whole number with a unit: 500ms, 90s, 5m, 12h, 7d; or write never or"
        " always",
    ),
    (ONE % "revalidate: 60", "upstreams.ghcr.io.revalidate", "'60' is no duration"),
    (ONE % "revalidate: off", "upstreams.ghcr.io.revalidate", "false is a truth value to YAML; write never or always"),
    (ONE % "revalidate: never, fresh_for: 1m", "upstreams.ghcr.io", "keep one of them"),
    (ONE % "missing_for: 30", "upstreams.ghcr.io.missing_for", "'30' is no duration"),
    (ONE % "missing: drop", "upstreams.ghcr.io.missing", "'drop' is not one of keep, delete"),
    (ONE % "missing: ~", "upstreams.ghcr.io.missing", "nothing is not one of keep, delete"),
    (ONE % "missing: true", "upstreams.ghcr.io.missing", "true is not one of keep, delete"),
    (ONE % "client_cert: gone", "upstreams.ghcr.io.client_cert", "/etc/gone: No such file"),
    (ONE % "client_key: /dev/null", "upstreams.ghcr.io", "of no use without client_cert"),
    (ONE % "insecure: 1", "upstreams.ghcr.io.insecure", "'1' is neither"),
    (ONE % "insecure: true, ca_file: /dev/null", "upstreams.ghcr.io", "keep one of them"),
    (ONE % "proxy: 'http://u:hunter2@h:1'", "upstreams.ghcr.io.proxy", "use proxy_username and proxy_password_file"),
    (ONE % "proxy: 'socks5://u:hunter2@h:1'", "upstreams.ghcr.io.proxy", "use proxy_username"),
    (ONE % "proxy: 'u:hunter2@h:1'", "upstreams.ghcr.io.proxy", "use proxy_username"),
    (ONE % "proxy: 'socks5://h:1080'", "upstreams.ghcr.io.proxy", "only HTTP proxies are spoken to; write http://"),
    (ONE % "proxy: 'h:3128'", "upstreams.ghcr.io.proxy", "no URL of a proxy; write http://HOST:PORT"),
    (ONE % "proxy: http://h", "upstreams.ghcr.io.proxy", "no URL of a proxy; write http://HOST:PORT"),
    (ONE % "proxy: 'http://h:0'", "upstreams.ghcr.io.proxy", "no URL of a proxy"),
    (ONE % "proxy: 'http://h:70000'", "upstreams.ghcr.io.proxy", "no URL of a proxy"),
    (ONE % "proxy: 'http://h:1/path'", "upstreams.ghcr.io.proxy", "no URL of a proxy"),
    (ONE % "proxy: 'http://h:1?x'", "upstreams.ghcr.io.proxy", "no URL of a proxy"),
    (ONE % "proxy: 'http://:1'", "upstreams.ghcr.io.proxy", "no URL of a proxy"),
    (ONE % "proxy: false", "upstreams.ghcr.io.proxy", "false is a truth value"),
    (ONE % "proxy_password: hunter2", "upstreams.ghcr.io.proxy_password", "name that with proxy_password_file"),
    (ONE % "proxy: 'http://h:1', proxy_username: me", "upstreams.ghcr.io", "proxy_password_file go together"),
    (ONE % "proxy_username: 'me:hunter2'", "upstreams.ghcr.io.proxy_username", "colon"),
    (
        ONE % "proxy_username: me, proxy_password_file: /dev/null",
        "upstreams.ghcr.io",
        "of no use without the URL of a proxy",
    ),
    (
        ONE % "proxy: none, proxy_username: me, proxy_password_file: /dev/null",
        "upstreams.ghcr.io",
        "of no use without the URL of a proxy",
    ),
    (ONE % "redirect_hosts: h", "upstreams.ghcr.io.redirect_hosts", "'h' stands where a list"),
    (ONE % "redirect_hosts: ['*']", "upstreams.ghcr.io.redirect_hosts[0]", "[IPv6]:PORT or *.DOMAIN"),
    (ONE % "redirect_hosts: ['a.*.b']", "upstreams.ghcr.io.redirect_hosts[0]", "no host"),
    (ONE % "redirect_hosts: ['::1']", "upstreams.ghcr.io.redirect_hosts[0]", "no host"),
    (ONE % "redirect_hosts: ['[::1]:x']", "upstreams.ghcr.io.redirect_hosts[0]", "no host"),
    (ONE % "redirect_hosts: ['[::g]']", "upstreams.ghcr.io.redirect_hosts[0]", "no host"),
    (ONE % "redirect_hosts: ['[1.2.3.4]']", "upstreams.ghcr.io.redirect_hosts[0]", "no host"),
    (ONE % "redirect_hosts: [h/x]", "upstreams.ghcr.io.redirect_hosts[0]", "without a path"),
    (ONE % "keep_pulls: -1", "upstreams.ghcr.io.keep_pulls", "'-1' is no whole number from 0 to"),
    (ONE % "max_connections: 0", "upstreams.ghcr.io.max_connections", "'0' is no whole number from 1 to 1000"),
    (ONE % "max_connections: many", "upstreams.ghcr.io.max_connections", "'many' is no whole number"),
    (ONE % "max_rate: 40", "upstreams.ghcr.io.max_rate", "'40' is no rate; write a size per second"),
    (ONE % "max_rate: 40MB/s", "upstreams.ghcr.io.max_rate", "'40MB/s' is no rate"),
    (ONE % "max_rate: 40B", "upstreams.ghcr.io.max_rate", "less than 1KB per second"),
    (ONE % "segments: 17", "upstreams.ghcr.io.segments", "'17' is no whole number from 1 to 16"),
    (ONE % "prefetch: true", "upstreams.ghcr.io.prefetch", "stands where keys"),
    (ONE % "prefetch: {images: none}", "upstreams.ghcr.io.prefetch.images", "did you mean image"),
    (ONE % "prefetch: {image: all}", "upstreams.ghcr.io.prefetch.image", "'all' is not one of pulled, index, none"),
    (ONE % "prefetch: {image: ~}", "upstreams.ghcr.io.prefetch.image", "is not one of pulled, index, none"),
    (ONE % "aliases: gh", "upstreams.ghcr.io.aliases", "'gh' stands where a list"),
    (ONE % "aliases: [gh, ..]", "upstreams.ghcr.io.aliases[1]", "no name for an upstream"),
    (ONE % "auth_hosts: [https://h]", "upstreams.ghcr.io.auth_hosts[0]", "without https://"),
    (ONE % "auth_hosts: ['h:99999']", "upstreams.ghcr.io.auth_hosts[0]", "no host"),
    (ONE % "allow: '**'", "upstreams.ghcr.io.allow", "stands where a list"),
    (ONE % "allow: [a**]", "upstreams.ghcr.io.allow[0]", "'a**' is no pattern"),
    (ONE % "allow: [a//b]", "upstreams.ghcr.io.allow[0]", "no pattern"),
    (ONE % "deny: [/a]", "upstreams.ghcr.io.deny[0]", "no pattern"),
    (ONE % "deny: [A]", "upstreams.ghcr.io.deny[0]", "in lower case"),
    (
        "upstreams: {a: {url: https://h, aliases: [x]}, b: {url: https://h, aliases: [x]}}",
        "upstreams.b",
        "'x' already means the upstream a",
    ),
    ("upstreams: {a: {url: https://h}, b: {url: https://h, aliases: [a]}}", "upstreams.b", "already means"),
    (
        "upstreams: {docker.io: {url: https://h}, index.docker.io: {url: https://h}}",
        "upstreams.index.docker.io",
        "already means the upstream docker.io",
    ),
]

WRONG_ACCESS = [
    ("access: {allow: {}}", "access", "stands where a list"),
    ("access: [{}]", "access[0]", "either an allow or a deny"),
    ("access: [{allow: {}, deny: {}}]", "access[0]", "either an allow or a deny"),
    ("access: [{allow: ~}]", "access[0]", "either an allow or a deny"),
    ("access: [{alow: {}}]", "access[0].alow", "did you mean allow"),
    ("access: [{allow: {user: ann}}]", "access[0].allow.user", "did you mean users"),
    ("access: [{allow: {users: []}}]", "access[0].allow.users", "is empty; write at least one"),
    (f"access: [{{allow: {{users: {'x' * 256}}}}}]", "access[0].allow.users", "too long for a name in a certificate"),
    (
        "access: [{allow: {groups: ops}}]",
        "access[0].allow.groups",
        "'ops' is not among the groups; there are: none yet",
    ),
    (
        "access: [{deny: {groups: [a, b]}}]\ngroups: {a: []}",
        "access[0].deny.groups",
        "'b' is not among the groups; there are: a",
    ),
    (
        "access: [{deny: {listeners: edge}}]",
        "access[0].deny.listeners",
        "'edge' is not among the listeners; there are: listen-1",
    ),
    ("access: [{allow: {networks: 10.0.0.0/33}}]", "access[0].allow.networks", "is no network; write an address"),
    (
        "access: [{allow: {networks: 10.0.0.5/24}}]",
        "access[0].allow.networks",
        "write 10.0.0.0/24, or the address alone",
    ),
    ("access: [{deny: {networks: '::ffff:10.0.0.0/104'}}]", "access[0].deny.networks", "write 10.0.0.0/8"),
    ("trusted_proxies: ['::ffff:10.0.0.1']", "trusted_proxies[0]", "write 10.0.0.1/32"),
    ("groups: {ops: [ann, '*']}", "groups.ops", "stands for any user only in users of a rule"),
    ("access: [{allow: {networks: cache.site}}]", "access[0].allow.networks", "is no network"),
    ("access: [{allow: {networks: '010.0.0.1'}}]", "access[0].allow.networks", "is no network"),
    ("access: [{allow: {actions: push}}]", "access[0].allow.actions", "'push' is not one of pull, list"),
    ("access: [{allow: {repositories: ghcr.io}}]", "access[0].allow.repositories", "begins with an upstream"),
    ("access: [{allow: {repositories: ghcr.io/}}]", "access[0].allow.repositories", "begins with an upstream"),
    (
        "access: [{allow: {repositories: 'ghcr.io/Team/**'}}]",
        "access[0].allow.repositories",
        "begins with an upstream",
    ),
    ("access: [{allow: {repositories: 'ghcr.io/a:1'}}]", "access[0].allow.repositories", "begins with an upstream"),
    ("groups: {ops: ann}", "groups.ops", "stands where a list"),
    ("groups: {'a b': []}", "groups.a b", "'a b' is no name for a group"),
    ("checkers: [hunter2 is it]", "checkers[0]", "is no checker; write such as htpasswd:"),
    ("trusted_proxies: 10.0.0.1", "trusted_proxies", "stands where a list"),
    ("client_rate: {requests: 0}", "client_rate.requests", "'0' is no whole number from 1"),
    ("client_rate: {bytes: 40}", "client_rate.bytes", "is no rate"),
    ("audit_size: 10", "audit_size", "'10' is no size"),
    ("audit_size: 10B", "audit_size", "too small"),
    ("listen: [{endpoint: 'tcp:1', name: a b}]", "listen[0].name", "is no name for a listener"),
    (
        "listen: [{endpoint: 'tcp:1', name: a}, {endpoint: 'tcp:2', name: a}]",
        "listen[1]",
        "'a' is the name of two listeners",
    ),
    (
        "listen: [{endpoint: 'tcp:1', name: listen-2}, {endpoint: 'tcp:2'}]",
        "listen[1]",
        "'listen-2' is the name of two",
    ),
    ("listen: [{endpoint: 'tcp:1', login: basic}]", "listen[0].login", "is not one of none, offered, required"),
    (
        "listen: [{endpoint: 'tcp:1', login: required}]",
        "listen[0]",
        "login: required needs somebody who knows the users",
    ),
    ("listen: [{endpoint: 'tcp:1', checkers: 'file:/p'}]", "listen[0]", "checkers are of no use with login: none"),
    (
        "listen: [{endpoint: 'tcp:1', client_ca_file: /dev/null}]",
        "listen[0]",
        "only where the endpoint begins with tls: or ssl:",
    ),
    (
        "listen: [{endpoint: 'tls:/p:port=1', client_crl_file: /dev/null}]",
        "listen[0]",
        "of no use without client_ca_file",
    ),
    ("listen: [{endpoint: 'tls:/p:port=1', client_ca_file: /no/such}]", "listen[0].client_ca_file", "cannot be read"),
    ("admin: {client_roles: {ann: manage}}", "admin.client_roles", "of no use without client_ca_file"),
    ("admin: {client_roles: {ann: admin}}", "admin.client_roles.ann", "is not one of read, operate, manage"),
    ("admin: {socket: /run/p.sock}", "admin.socket", "is no socket; write unix:/PATH"),
    ("admin: {socket: 'unix:p.sock'}", "admin.socket", "is no socket"),
    ("admin: {metrics: closed}", "admin.metrics", "is not one of open, read"),
    (ONE % "username: me, password_file: /dev/null", "upstreams.ghcr.io", "has credentials, and no rule says who may"),
    (ONE % "kind: ecr", "upstreams.ghcr.io", "has credentials"),
    (ONE % "client_cert: /dev/null", "upstreams.ghcr.io", "has credentials"),
    (ONE % "private: true", "upstreams.ghcr.io", "is private, and no rule says who may"),
    (
        ONE % "token_file: /dev/null",
        "upstreams.ghcr.io",
        "access: [{allow: {networks: [10.0.0.0/8], repositories: ['ghcr.io/**']}}",
    ),
    (ONE % "token_file: /dev/null", "upstreams.ghcr.io", "Or give ghcr.io private: false"),
]


@pytest.mark.parametrize(("text", "path", "why"), WRONG_KEYS + WRONG_ACCESS)
def test_a_wrong_value_is_named_with_its_key_and_its_cure(text: str, path: str, why: str) -> None:
    """One line: file, key path, what is wrong, what would be right; and never what may be a password."""
    message = fault(text)
    assert message.startswith(f"/etc/p.yaml: line 1: {path}: ")
    assert why in message
    assert "\n" not in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("# words\n\nstroe: x", "line 3: stroe"),
        ("listen:\n  - endpoint: tcp:1\n  - endpoint:\n      5000", "line 3: listen[1].endpoint"),
        ("upstreams:\n  a:\n    offline: true", "line 2: upstreams.a.url"),
        ("upstreams:\n  a:\n    url: http://h\n    aliases:\n      - b\n      - /", "line 6: upstreams.a.aliases[1]"),
        ("upstreams:\n  a:\n    url: http://h\n    username: me", "line 2: upstreams.a"),
        ("upstreams:\n  a: {url: http://h}\nbundles:\n  aliases: [b,\n    a]", "line 5: bundles.aliases[1]"),
        ("upstreams: {}\nlisten:\n- endpoint: tcp:1\n  default_upstream: a", "line 4: listen[0].default_upstream"),
        ("- a", ""),
    ],
)
def test_what_is_wrong_is_found_by_its_line(text: str, place: str) -> None:
    """Of a key the line where it stands, of a member of a list its own, of what is missing that of the section."""
    assert fault(text).startswith(f"/etc/p.yaml: {place}: " if place else "/etc/p.yaml: a list stands")


@given(st.text() | st.text(alphabet="{}[]:,-?!&*#%|>'\"\\ \n\tax0~<="))
def test_no_text_gets_past_the_one_kind_of_error(text: str) -> None:
    """Any text gives settings, or one line that says what is wrong."""
    try:
        config.parse(text, "p")
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a folder, in another encoding, too large: each says so."""
    (tmp_path / "latin").write_bytes(b"store: caf\xe9")
    (tmp_path / "large").write_bytes(b"#" * (LIMIT + 1))
    for name, why in [("gone", "No such file"), (".", "directory"), ("latin", "UTF-8"), ("large", "larger than")]:
        with pytest.raises(ConfigError, match=why) as caught:
            config.load(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Some editors put one at the front."""
    (tmp_path / "p.yaml").write_bytes(b"\xef\xbb\xbfoffline: true\n")
    assert config.load(tmp_path / "p.yaml").offline
