# Envoy's preStop hook. On SIGTERM Envoy cuts open requests, so this runs before it: from now on every response
# asks its client to close the connection, and the hook returns once no request is open.
# usage: drain.sh SECONDS-AT-LEAST SECONDS-AT-MOST [ADMIN-PORT [ADMIN-HOST]]
# Needs only bash and sleep. Runs inside the Envoy container.
set -u
least=$1 most=$2 port=${3:-9901} host=${4:-127.0.0.1}

ask() { # METHOD PATH: prints the answer
  exec 3<>"/dev/tcp/$host/$port" || return 1
  printf '%s %s HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n' "$1" "$2" >&3
  local line
  while IFS= read -r -t 5 line <&3 || [[ -n $line ]]; do printf '%s\n' "${line%$'\r'}"; done
  exec 3>&-
}

open_requests() { # prints their number; nothing when Envoy does not answer
  local name value sum=
  while IFS=': ' read -r name value; do
    # `gateway` are the listeners of a Gateway, `inference` is that of a printed bootstrap.
    [[ $name == http.*.downstream_rq_active ]] && sum=$((sum + value))
  done < <(ask GET '/stats?filter=^http\.(inference|gateway)\.downstream_rq_active$' 2>/dev/null)
  printf '%s' "$sum"
}

ask POST /healthcheck/fail >/dev/null 2>&1 || { echo "drain: Envoy does not answer" >&2; exit 0; }
while :; do
  open=$(open_requests)
  [[ -z $open ]] && exit 0
  ((open == 0 && SECONDS >= least)) && exit 0
  ((SECONDS < most)) || break
  sleep 0.5
done
echo "drain: $open requests are still open after $most s and are cut" >&2
