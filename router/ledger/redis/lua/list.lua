-- The definitions of all budgets.
return {'ok', meta[3], unpack(redis.call('HVALS', P .. 'budgets'))}
