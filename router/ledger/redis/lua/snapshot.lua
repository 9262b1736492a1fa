-- Everything that the counters are made of, at one moment.
local accounts = {}
for _, name in ipairs(redis.call('ZRANGE', P .. 'accounts', 0, -1)) do
  local c = redis.call('HMGET', P .. 'a:' .. name, 's', 'h', 'o', 'n', 'c')
  accounts[#accounts + 1] = {name, c[1] or '', c[2] or '', c[3] or '', c[4] or '', c[5] or ''}
end
local open = {}
for _, rid in ipairs(redis.call('ZRANGE', P .. 'open', 0, -1)) do
  local r = redis.call('HMGET', P .. 'r:' .. rid, 'st', 'a', 't', 'p')
  open[#open + 1] = {rid, r[1] or '', r[2] or '', r[3] or '', r[4] or '[]'}
end
return {
  'ok', meta[3], meta[3], accounts, open, redis.call('HGETALL', P .. 'clock'),
  redis.call('HGETALL', P .. 'limit'), redis.call('HGETALL', P .. 'budgets')
}
