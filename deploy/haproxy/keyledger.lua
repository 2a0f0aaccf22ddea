-- Asks the ledger about the request at hand: `http-request lua.keyledger`. It leaves its answer in txn.keyledger_*;
-- txn.keyledger_status is 200, 401, 403, or 503 where the ledger gave no answer.

-- Where to ask, with the surface that the key must be for: set in haproxy.cfg by `setenv KEYLEDGER_FORWARD_AUTH`.
local url = os.getenv("KEYLEDGER_FORWARD_AUTH")

local answers = {
  keyledger_credential = "x-credential-id",
  keyledger_kind = "x-credential-kind",
  keyledger_team = "x-team-id",
  keyledger_user = "x-user-id",
  keyledger_challenge = "www-authenticate",
}

core.register_action("keyledger", { "http-req" }, function(txn)
  -- Two are handed on as two: the ledger refuses them.
  local presented = {}
  local sent = txn.http:req_get_headers()["authorization"] or {}
  for number = 0, 1 do
    if sent[number] then
      presented[number + 1] = sent[number]
    end
  end

  local response = core.httpclient():get({
    url = url,
    headers = {
      ["authorization"] = presented,
      ["x-forwarded-for"] = { txn.sf:src() },
    },
    timeout = 5000,
  })
  local status = response and response.status
  if status ~= 200 and status ~= 401 and status ~= 403 then
    status = 503
  end
  txn:set_var("txn.keyledger_status", status)
  if status == 503 then
    return
  end
  for variable, header in pairs(answers) do
    local values = response.headers[header]
    txn:set_var("txn." .. variable, values and values[0] or "")
  end
end)
