-- Stops everybody. KEYS[1]: the ledger's hash. ARGV: generation, why
if redis.call('HGET', KEYS[1], 'gen') == ARGV[1] then
  redis.call('HSETNX', KEYS[1], 'lost', ARGV[2])
end
return {'ok'}
