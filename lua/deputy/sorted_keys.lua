-- sorted_keys(map): what its keys are called, in order.
return function(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = tostring(key) end
  table.sort(keys)
  return keys
end
