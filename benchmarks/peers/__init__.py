"""The same burst through vaefarm and through what one would take instead, each in an environment of its own.

The modules `with_*` and `bytes_only` run in those environments: they import nothing of vaefarm or torch, except
`with_vaefarm`.
"""
