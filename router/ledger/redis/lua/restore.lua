-- Ends a rebuild. KEYS[1]: the ledger's hash. ARGV: generation, run id, step, schema version
local P = string.sub(KEYS[1], 1, -5)
redis.call('DEL', KEYS[1], P .. 'runs')
redis.call('HSET', KEYS[1], 'gen', ARGV[1], 'run', ARGV[2], 'seq', ARGV[3], 'drained', ARGV[3],
  'version', ARGV[4])
redis.call('RPUSH', P .. 'runs', ARGV[2] .. ' ' .. ARGV[3])
return {'ok', ARGV[3], ARGV[2]}
