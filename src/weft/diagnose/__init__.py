"""`weft diagnose`: one readable page about a host that doesn't do what it should, and what to do next.

    collect    asks host, Docker, etcd, kernel, firewall, the daemon, and probes the paths → Facts     I/O
    judge      Facts → Findings, the worst first                                                       pure
    page       Facts and Findings → text                                                               pure
    redact     passwords, keys, tokens and URLs' users out of any text                                 pure
    bundle     all of it in one archive for somebody else to read                                      I/O

It asks everything itself and needs no running daemon; what can't be asked is a remark that says why. Called by
`cli/diagnose.py`.
"""
