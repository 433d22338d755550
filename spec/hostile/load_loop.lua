-- Loops while it is loaded.
while true do end
