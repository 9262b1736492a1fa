-- 4 series, 5 clock, 6 window, 7 since, 8 amount, 9 payload
local window = current(ARGV[5], ARGV[6], '')
local found, gone = counters(ARGV[4], ARGV[7], window, ARGV[7] ~= ARGV[6])
if gone then return {'vanished', gone} end
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
for _, part in ipairs(parts) do
  redis.call('HINCRBY', part[1], 's', '-' .. part[2])
  redis.call('HINCRBY', part[1], 'c', part[2])
end
redis.call('HDEL', META, 'limit')
return {'ok', seq, given}
