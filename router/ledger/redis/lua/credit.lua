-- 4 series, 5 clock, 6 window, 7 since, 8 amount, 9 payload, 10 how far the log's store was looked at,
-- 11 accounts, 12 seconds after which it is seen whether an account can be let go
local window = current(ARGV[5], ARGV[6], '')
local name, rolls = ARGV[4] .. '|' .. window, ARGV[7] ~= ARGV[6]
local found, gone = counters(ARGV[4], ARGV[7], window, rolls)
if gone then return {'vanished', gone} end
local past = nil
if not rolls and #found == 0 then
  past = told_of(ARGV[11])[name]
  if not past or overlooked(ARGV[10]) then return {'again', meta[3], name} end
  if past[2] ~= '0' then return {'vanished', name} end
  found = {window, unpack(past, 1, 4)}
end
local left = tonumber(ARGV[8])
local parts = {}
for i = #found - 4, 1, -5 do -- from the latest window back
  local settled = tonumber(found[i + 1])
  if settled > 0 and left > 0 then
    local part = settled < left and settled or left
    parts[#parts + 1] = {P .. 'a:' .. ARGV[4] .. '|' .. found[i], text(part)}
    left = left - part
  end
end
local given = text(tonumber(ARGV[8]) - left)
local seq = emit('credit', '[' .. ARGV[9] .. ',' .. given .. ']')
if past and #parts > 0 then put(name, past, ARGV[5], server_time() + tonumber(ARGV[12])) end
for _, part in ipairs(parts) do
  redis.call('HINCRBY', part[1], 's', '-' .. part[2])
  redis.call('HINCRBY', part[1], 'c', part[2])
  redis.call('HSET', part[1], 'v', seq)
end
redis.call('HDEL', META, 'limit')
return {'ok', seq, given}
