"""What may be configured, and how it is read: config.yaml, the environment, secrets in files, addresses.

It knows no room but policy, whose rules say which endpoints and budgets a setting may name.
"""
