#!/bin/sh
# No SDK, no JSON library: a curl for each line, with two retries of curl's own.
while IFS= read -r line; do
  prompt=${line#*'"prompt":"'}; prompt=${prompt%%'"'*}
  model=${line#*'"model":"'}; model=${model%%'"'*}
  timeout=${line#*'"timeout":'}; timeout=${timeout%%[,\}]*}
  deadline=${line#*'"deadline":'}; deadline=${deadline%%[,\}]*}
  curl --silent --output /dev/null --retry 2 --max-time "$timeout" --retry-max-time "${deadline%.*}" \
    --header "Authorization: Bearer $OPENAI_API_KEY" --header 'Content-Type: application/json' \
    --data "{\"model\":\"$model\",\"messages\":[{\"role\":\"user\",\"content\":\"$prompt\"}]}" \
    "$OPENAI_BASE_URL/chat/completions" &
done
wait
