-- 4 now, 5 how many at most, 6 seconds to remember them
local due = redis.call('ZRANGEBYSCORE', P .. 'open', '-inf', ARGV[4], 'LIMIT', 0, ARGV[5])
local requests = redis.call('ZRANGEBYSCORE', P .. 'requests', '-inf', ARGV[4], 'LIMIT', 0, ARGV[5])
if #due + #requests == 0 then return {'ok', meta[3], '0', '0'} end
local lists = {}
for i, rid in ipairs(due) do
  local r = redis.call('HMGET', P .. 'r:' .. rid, 'a', 't', 'p')
  if not r[1] then return {'vanished', rid} end
  local whole = {tonumber(r[1]), tonumber(r[2]), 1}
  local list, problem = changes(r[3], whole, whole, whole, true)
  if not list then return problem end
  lists[i] = {list, r[1]}
end
local ids = #due > 0 and cjson.encode(due) or '[]'
local seq = emit('expire', '[' .. ARGV[4] .. ',' .. ids .. ',' .. #requests .. ']')
for i, rid in ipairs(due) do
  charge(lists[i][1])
  redis.call('HSET', P .. 'r:' .. rid, 'st', 'expired', 'x', lists[i][2], 'v', seq)
  redis.call('ZREM', P .. 'open', rid)
  forget('r:' .. rid, ARGV[6])
end
for _, request in ipairs(requests) do
  redis.call('HSET', P .. 'q:' .. request, 'st', 'expired')
  redis.call('ZREM', P .. 'requests', request)
end
return {'ok', seq, text(#due), text(#requests)}
