-- Finds the ledger, or begins it. KEYS[1]: its hash. ARGV: a generation to begin with ('' for
-- none), the server's run id, the schema version. A new run id is a restart or a failover: how far
-- the ledger had come when it was first seen is written down, so that everybody can compare; the
-- last answer says that this was that first sight.
local P = string.sub(KEYS[1], 1, -5)
local first = ''
local meta = redis.call('HMGET', KEYS[1], 'gen', 'run', 'seq', 'lost', 'version', 'drained')
if not meta[1] then
  if ARGV[1] == '' then return {'gone'} end
  redis.call('HSET', KEYS[1], 'gen', ARGV[1], 'run', ARGV[2], 'seq', '0', 'version', ARGV[3], 'drained', '0')
  redis.call('DEL', P .. 'runs')
  redis.call('RPUSH', P .. 'runs', ARGV[2] .. ' 0')
elseif meta[2] ~= ARGV[2] then
  first = '1'
  redis.call('HSET', KEYS[1], 'run', ARGV[2])
  redis.call('RPUSH', P .. 'runs', ARGV[2] .. ' ' .. meta[3])
  redis.call('LTRIM', P .. 'runs', -1000, -1)
end
meta = redis.call('HMGET', KEYS[1], 'gen', 'seq', 'lost', 'version', 'drained')
return {
  'ok', meta[2], meta[1], meta[3] or '', meta[4], meta[5],
  redis.call('LRANGE', P .. 'runs', 0, -1), first
}
