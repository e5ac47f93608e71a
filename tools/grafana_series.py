"""Which series a panel shows: those of one fleet, and of its chosen routers, workers or tenants."""

FLEET = 'namespace=~"$namespace",job=~"$job"'
ROUTERS = f'{FLEET},instance=~"$router"'
WORKERS = f'{FLEET},worker=~"$worker"'
TENANTS = f'{FLEET},tenant=~"$tenant"'
# A chart shows at most this many workers or tenants, so that their lines can be told apart.
MOST = 20
