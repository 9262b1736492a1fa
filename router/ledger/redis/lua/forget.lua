-- 4 position up to which the log has everything, 5 how many to forget at most, 6 seconds after which an
-- account that is in use is looked at again
local position = tonumber(ARGV[4])
redis.call('XTRIM', P .. 'outbox', 'MINID', text(position + 1) .. '-0')
if position > tonumber(redis.call('HGET', META, 'drained')) then
  redis.call('HSET', META, 'drained', ARGV[4])
end
local now = tonumber(redis.call('TIME')[1])
local forgotten = 0

local function drop_request(request)
  local fields = redis.call('HKEYS', P .. 'q:' .. request)
  for _, field in ipairs(fields) do
    if string.sub(field, 1, 2) == 'n:' then return end
  end
  redis.call('DEL', P .. 'q:' .. request)
end

for _, member in ipairs(redis.call('ZRANGEBYSCORE', P .. 'done', '-inf', now, 'LIMIT', 0, ARGV[5])) do
  local request = string.match(member, '^q:(.*)$')
  local r = redis.call('HMGET', P .. member, 'v', 'q', 'n', 'p')
  if not r[1] then
    redis.call('ZREM', P .. 'done', member)
  elseif tonumber(r[1]) > position or
    (not request and redis.call('ZSCORE', P .. 'requests', r[2])) then
    redis.call('ZADD', P .. 'done', now + 60, member) -- not copied yet, or its request goes on
  else
    redis.call('ZREM', P .. 'done', member)
    if request then
      drop_request(request)
    else
      local paying = cjson.decode(r[4])
      for i = 1, #paying, 2 do redis.call('HINCRBY', P .. 'a:' .. paying[i], 'r', -1) end
      redis.call('DEL', P .. member)
      redis.call('HDEL', P .. 'q:' .. r[2], 'n:' .. r[3])
      drop_request(r[2])
    end
    forgotten = forgotten + 1
  end
end

for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. 'accounts', '-inf', now, 'LIMIT', 0, ARGV[5])) do
  local series, window = string.match(name, '^(.*)|([^|]*)$')
  local a = redis.call('HMGET', P .. 'a:' .. name, 'h', 'r', 'k', 'v')
  local idle = a[1] == '0' and a[2] == '0' and tonumber(a[4] or '0') <= position
  if redis.call('ZSCORE', P .. 'rolling:' .. series, window) then -- it counts in later windows too
    local latest = a[3] and redis.call('HGET', P .. 'clock', a[3])
    idle = idle and latest and string.match(latest, '^([^|]*)|') > window
  end
  if idle then
    redis.call('DEL', P .. 'a:' .. name)
    redis.call('ZREM', P .. 'accounts', name)
    redis.call('ZREM', P .. 'rolling:' .. series, window)
    forgotten = forgotten + 1
  else
    redis.call('ZADD', P .. 'accounts', now + tonumber(ARGV[6]), name)
  end
end
return {'ok', meta[3], text(forgotten)}
