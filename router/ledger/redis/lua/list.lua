-- 4 the beginning of a budget's series, or '' for the definitions of all budgets
if ARGV[4] == '' then return {'ok', meta[3], unpack(redis.call('HVALS', P .. 'budgets'))} end
local found, seen = {'ok', meta[3]}, {}
for _, name in ipairs(redis.call('ZRANGE', P .. 'accounts', 0, -1)) do
  if string.sub(name, 1, #ARGV[4]) == ARGV[4] then
    local value = string.match(string.sub(name, #ARGV[4] + 1), '^(.*)|')
    if not seen[value] then
      seen[value] = true
      found[#found + 1] = value
    end
  end
end
return found
