-- The operation of stormbreak.fleet.store_rules, in a server. See there for what it does and why.
-- KEYS: scopes, each a hash. ARGV: the time ('': the server's), quiet_until, server, and for each scope the member and the numbers
-- of its Report. The reply: the numbers of all answers. Reports and answers have the order of stormbreak.fleet.messages.

local LEASE, HORIZON, DEMAND, MAX_DEBT = 10, 0.5, 1, 60
local MIN_AGAIN, MAX_AGAIN, CHUNK, QUIET, FORGOTTEN = 0.05, 0.25, 50, 5, 3600
local NONE, HOLD, LIFT, EVER = -1, 1, 2, 1
local MONTH, SECONDS = -3, {3600, 86400, 2678400} -- periods, and how long they last at the most
local MONTHS = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
local KEEP = 3600 -- seconds for which an idle scope is kept

-- records: lists of doubles
local SCOPE = {
  'epoch', 'at', 'quiet_until', 'tat1', 'tat2', 'cooldown_at', 'cooldown_until', 'started', 'ends_at', 'folded', 'forgotten',
  'asserted', 'server',
}
local MEMBER = {
  'until', 'asked_at1', 'want1', 'least1', 'served_at1', 'owed1', 'asked_at2', 'want2', 'least2', 'served_at2',
  'owed2', 'held', 'want', 'served_at', 'granted', 'returned', 'spent',
}

local function read(fields, text)
  local record = {}
  if text then
    local values = {struct.unpack('<' .. string.rep('d', #fields), text)}
    for place, name in ipairs(fields) do record[name] = values[place] end
  else
    for _, name in ipairs(fields) do record[name] = 0 end
  end
  return record
end

local function write(fields, record)
  local values = {}
  for place, name in ipairs(fields) do values[place] = record[name] end
  return struct.pack('<' .. string.rep('d', #fields), unpack(values))
end

local now, quiet_until, server, place = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), 3
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local function take(...)
  local part = {}
  for _, field in ipairs({...}) do
    place = place + 1
    part[field] = tonumber(ARGV[place])
  end
  return part
end
local answer = {}

local function period_end(period, at)
  if period ~= MONTH then
    local seconds = SECONDS[-period]
    return (math.floor(at / seconds) + 1) * seconds
  end
  local first, months = 0, 0
  while first * 86400 <= at do
    local year, month = 1970 + math.floor(months / 12), months % 12 + 1
    local leap = month == 2 and year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
    first, months = first + MONTHS[month] + (leap and 1 or 0), months + 1
  end
  return first * 86400
end

local function bounded_end(period, ends_at, at)
  return ends_at - at <= 2 * SECONDS[-period] and ends_at or period_end(period, at)
end

local function beat(key)
  place = place + 1
  local name = ARGV[place]
  local head = take('epoch', 'leaves')
  local rates = {
    take('per_minute', 'burst', 'want', 'least', 'owed'), take('per_minute', 'burst', 'want', 'least', 'owed'),
  }
  local slots = take('limit', 'in_flight', 'want', 'cap')
  local news = take('kind', 'age', 'left')
  local account = take(
    'limit', 'period', 'started', 'ends_in', 'granted', 'returned', 'spent', 'needed', 'noted', 'elsewhere'
  )

  local scope, members = nil, {}
  local stored = redis.call('HGETALL', key)
  for i = 1, #stored, 2 do
    if stored[i] == '' then
      scope = read(SCOPE, stored[i + 1])
    else
      members[stored[i]] = read(MEMBER, stored[i + 1])
    end
  end
  if not scope then
    scope = read(SCOPE)
    scope.ends_at = NONE
  end
  local changed, gone = {[name] = true}, {}

  local function money(member) return math.max(member.granted - member.returned, member.spent) end

  -- fair division

  local function divide(room, wanters)
    table.sort(wanters, function(a, b)
      if a.served_at ~= b.served_at then return a.served_at < b.served_at end
      return a.name < b.name
    end)
    local part, rest = 0, {}
    for _, each in ipairs(wanters) do
      if each.need > room then
        room = 0
        break
      end
      room = room - each.need
      rest[#rest + 1] = {more = each.want - each.need, name = each.name}
      if each.name == name then part = each.need end
    end
    table.sort(rest, function(a, b)
      if a.more ~= b.more then return a.more < b.more end
      return a.name < b.name
    end)
    for i, each in ipairs(rest) do
      local more = math.min(each.more, math.floor(room / (#rest - i + 1)))
      room = room - more
      if each.name == name then part = part + more end
    end
    return part
  end

  -- rates

  local function lease_rate(kind)
    local asked, me = rates[kind], members[name]
    if asked.per_minute == 0 then return {0, 0, 0, 0, 0, 0} end
    local tat, asked_at, want, least = 'tat' .. kind, 'asked_at' .. kind, 'want' .. kind, 'least' .. kind
    local served_at, owed = 'served_at' .. kind, 'owed' .. kind
    local seconds = 60 / asked.per_minute
    local depth = math.max(asked.burst, seconds)
    local full_at = scope[tat]
    if full_at == 0 then full_at = now + depth end
    full_at = math.max(full_at, now) + (asked.owed - me[owed]) * seconds
    full_at = math.min(math.max(full_at, now), now + math.max(depth, MAX_DEBT))
    me[owed], me[asked_at], me[want], me[least] = asked.owed, now, asked.want, asked.least
    local room = math.floor((now + HORIZON + depth - full_at) / seconds)
    local whole = math.max(1, math.floor(depth / seconds))
    local wanters = {}
    for other, member in pairs(members) do
      if member[want] > 0 and member[asked_at] + DEMAND > now then
        wanters[#wanters + 1] = {
          served_at = member[served_at], name = other, want = member[want],
          need = math.min(member[least], member[want], whole),
        }
      end
    end
    local part = divide(math.max(room, 0), wanters)
    local lump, lump_in, first_in, count = 0, 0, 0, 0
    if part > 0 then
      me[served_at] = now
      lump = math.min(asked.least, asked.want)
      lump_in = math.max(full_at - math.max(0, depth - lump * seconds), now) - now
      full_at = full_at + lump * seconds
      count = math.max(0, part - lump)
      first_in = full_at - depth + seconds - now
      full_at = full_at + count * seconds
      me[want] = math.max(0, asked.want - lump - count)
    end
    scope[tat] = full_at
    local ahead = 0
    for _, each in ipairs(wanters) do
      if each.name ~= name and each.served_at <= me[served_at] then ahead = ahead + each.need end
    end
    local again = full_at + (ahead + math.min(math.max(asked.least, 1), whole)) * seconds - depth - HORIZON - now
    again = math.min(math.max(again, MIN_AGAIN), MAX_AGAIN)
    return {lump_in, lump, first_in, seconds, count, again}
  end

  -- slots in flight

  local function lease_slots()
    if slots.limit == 0 then return 0 end
    local me, wanters, others = members[name], {}, 0
    me.want = slots.want
    for other, member in pairs(members) do
      if member['until'] > now then
        if member.want > 0 then
          wanters[#wanters + 1] = {served_at = member.served_at, name = other, want = member.want, need = 1}
        end
        if other ~= name then others = others + member.held end
      end
    end
    local cap = math.max(0, math.min(divide(slots.limit, wanters), slots.limit - others))
    if cap > 0 then me.served_at = now end
    me.held = math.max(cap, slots.cap, slots.in_flight)
    return cap
  end

  -- cooldowns

  local function gossip()
    if (news.kind == HOLD or news.kind == LIFT) and now - news.age >= scope.cooldown_at then
      scope.cooldown_at = now - news.age
      scope.cooldown_until = news.kind == HOLD and now + news.left or 0
    end
    return math.max(0, scope.cooldown_until - now)
  end

  -- money

  local function ends_at(started)
    if account.period < 0 then
      return bounded_end(account.period, period_end(account.period, started), now)
    end
    return account.period == 0 and NONE or started + account.period
  end

  local function end_period()
    if account.period < 0 then scope.ends_at = bounded_end(account.period, scope.ends_at, now) end
    if scope.started > 0 and scope.ends_at ~= NONE and now >= scope.ends_at then
      scope.started, scope.folded, scope.forgotten, scope.asserted = 0, 0, 0, 0
      if account.period >= 0 then scope.ends_at = NONE end
      for other, member in pairs(members) do
        member.granted, member.returned, member.spent = 0, 0, 0
        changed[other] = true
      end
    end
  end

  local function is_of_period()
    local is_on = account.started > 0 and (account.period == 0 or account.ends_in > 0)
    if scope.started == 0 and is_on and (head.epoch ~= scope.epoch or now < scope.quiet_until) then
      scope.started = account.started
      scope.ends_at = account.period > 0 and now + account.ends_in or ends_at(account.started)
    end
    return account.started > 0 and account.started == scope.started
  end

  local function remember()
    if account.limit == 0 or not is_of_period() then return end
    if head.epoch ~= scope.epoch then
      scope.forgotten = math.max(scope.forgotten, account.noted + account.elsewhere)
      scope.asserted = scope.asserted + account.noted
    elseif scope.quiet_until <= 0 then
      scope.folded = math.max(0, scope.folded - math.max(account.granted - account.returned, account.noted))
    end
  end

  local function spend(quiet)
    if account.limit == 0 then return {0, NONE, 0, 0, 0} end
    local me = members[name]
    if is_of_period() then
      for _, number in ipairs({'granted', 'returned', 'spent'}) do me[number] = math.max(me[number], account[number]) end
    end
    local unclaimed = scope.folded + math.max(0, scope.forgotten - scope.asserted)
    local taken, elsewhere = unclaimed, unclaimed
    for other, member in pairs(members) do
      taken = taken + money(member)
      if other ~= name then elsewhere = elsewhere + (member['until'] > now and member.spent or money(member)) end
    end
    local left = math.max(0, account.limit - taken)
    local lack = account.needed - (me.granted - me.returned)
    local is_set_back = scope.started == 0 and now < scope.ends_at
    if account.needed > 0 and lack > 0 and now >= quiet and not is_set_back then
      if scope.started == 0 then scope.started, scope.ends_at = account.period == 0 and EVER or now, ends_at(now) end
      if lack <= left then
        local grant = math.max(lack, math.floor(left / CHUNK))
        me.granted = me.granted + grant
        left = left - grant
      end
    end
    local ends_in = scope.ends_at == NONE and NONE or scope.ends_at - now
    return {scope.started, ends_in, me.granted, elsewhere, left}
  end

  -- the report

  local function set_back(record, fields, seconds)
    for _, field in ipairs(fields) do record[field] = record[field] - seconds end
  end

  if scope.epoch == 0 then scope.epoch = now end
  if now < scope.at then -- the clock of the server was set back
    local seconds = scope.at - now
    set_back(scope, {'quiet_until', 'cooldown_at', 'cooldown_until'}, seconds)
    for _, tat in ipairs({'tat1', 'tat2'}) do
      if scope[tat] ~= 0 then set_back(scope, {tat}, seconds) end
    end
    if scope.ends_at ~= NONE and account.period >= 0 then scope.ends_at = scope.ends_at - seconds end
    for other, member in pairs(members) do
      set_back(member, {'until', 'served_at', 'asked_at1', 'served_at1', 'asked_at2', 'served_at2'}, seconds)
      changed[other] = true
    end
  end
  scope.at = now
  if head.epoch ~= 0 and head.epoch ~= scope.epoch then scope.quiet_until = math.max(scope.quiet_until, scope.epoch + QUIET) end
  if server ~= 0 and server ~= scope.server then
    if scope.server ~= 0 then scope.quiet_until = math.max(scope.quiet_until, now + QUIET) end
    scope.server = server
  end
  end_period()
  for other, member in pairs(members) do
    if member['until'] <= now and (money(member) == 0 or member['until'] + FORGOTTEN <= now) then
      scope.folded = scope.folded + money(member)
      gone[#gone + 1] = other
    end
  end
  for _, other in ipairs(gone) do members[other] = nil end
  local is_new = not members[name]
  if is_new then
    local me = read(MEMBER)
    me.served_at, me.served_at1, me.served_at2, me.owed1, me.owed2 = now, now, now, rates[1].owed, rates[2].owed
    members[name] = me
  end
  local me = members[name]
  me['until'] = head.leaves ~= 0 and now or now + LEASE
  local requests, tokens = lease_rate(1), lease_rate(2)
  local cap, cooldown = lease_slots(), gossip()
  if is_new and head.epoch ~= 0 then remember() end
  local granted = spend(math.max(quiet_until, scope.quiet_until))
  local count, spenders = 0, false
  for _, member in pairs(members) do
    if member['until'] > now then count = count + 1 end
    spenders = spenders or money(member) > 0
  end
  if head.leaves ~= 0 and money(me) == 0 then
    members[name] = nil
    gone[#gone + 1] = name
  end

  -- write

  for _, other in ipairs(gone) do
    if not members[other] then redis.call('HDEL', key, other) end
  end
  redis.call('HSET', key, '', write(SCOPE, scope))
  for other in pairs(changed) do
    if members[other] then redis.call('HSET', key, other, write(MEMBER, members[other])) end
  end
  if (spenders or scope.folded > 0 or scope.forgotten > 0) and scope.ends_at == NONE then
    redis.call('PERSIST', key) -- money without a period is kept for ever
  else
    local left = scope.ends_at == NONE and 0 or scope.ends_at - now
    redis.call('EXPIRE', key, math.ceil(math.max(0, left) + KEEP))
  end

  for _, part in ipairs({{scope.epoch, count}, requests, tokens, {cap, cooldown}, granted}) do
    for _, number in ipairs(part) do answer[#answer + 1] = string.format('%.17g', number) end
  end
end

for _, key in ipairs(KEYS) do beat(key) end
return answer
