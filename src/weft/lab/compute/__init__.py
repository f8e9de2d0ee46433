"""A local Google Compute Engine API with its metadata server, for `weft lab` and for tests.

`python -m weft.lab.compute` runs it.

    table       what the cloud is made of: project, networks, instances, routes        (YAML)
    resources   the API's JSON documents
    checks      what Google asks of a route, and what it warns of
    engine      the state: routes, and operations that take their time
    history     every state of the route table and every call, with times
    faults      what is to go wrong next, and how often it did
    filters     the language of `filter=`, masks that of `fields=`, paging the pages
    access      tokens, scopes, permissions, rate limit; oauth, the keys of the service account
    api, metadata, control, server    HTTP

It is a fake that ships: it speaks as Google does as far as a route manager can tell, which Google's own client and the
published discovery document confirm (tests/interop/test_compute_api.py). What it doesn't keep it answers with 501.
"""
