#!/usr/bin/awk -f
# SPDX-License-Identifier: GPL-2.0
# What the in-tree module answered ("-": lines @REC, case, answer) goes into a table, which
# is printed: the host's column of the table of one test, with the other vendor's column
# and the reasons left as they are; or, with of= naming the table of the test, the lines of
# that test in ryzen.tsv or skylake.tsv, for what differs there from the vendor's column.
#
#   record.awk -v host=HOST -v test=TEST -v of=TABLE - TABLE

BEGIN {
	FS = OFS = "\t"
	while (of != "" && (getline text < of) > 0) {
		split(text, f, "\t")
		a = host == "intel" && f[3] != "=" ? f[3] : f[2]
		if (f[1] ~ /^#/ || a == "-") continue
		vendor[f[1]] = a
		name[++cases] = f[1]
	}
}
FILENAME == "-" {
	answer[$2] = $3
	order[++n] = $2
	next
}
/^#/ { print; next }
of != "" && $1 != test { print; next }
of != "" { why[$2] = $4; next }
{
	old[$1] = $2
	other[$1] = $3 == "=" ? $2 : $3
	why[$1] = $4
	line_of[++lines] = $1
}

# One line of a table; a case that neither vendor has is none.
function line(case_, got, a, v) {
	a = got
	v = case_ in old ? other[case_] : got
	if (host == "intel") {
		a = case_ in old ? old[case_] : "-"
		v = got
	}
	if (a == v && a != "-") print case_, a, "="
	if (a != v) print case_, a, v (why[case_] != "" ? OFS why[case_] : "")
}

END {
	if (of != "") {
		for (i = 1; i <= n; i++)
			if (!(order[i] in vendor) || vendor[order[i]] != answer[order[i]]) print test, order[i], answer[order[i]], why[order[i]]
		for (i = 1; i <= cases; i++)
			if (!(name[i] in answer)) print test, name[i], "-", why[name[i]]
		exit
	}
	for (i = 1; i <= n; i++) line(order[i], answer[order[i]])
	for (i = 1; i <= lines; i++)
		if (!(line_of[i] in answer)) line(line_of[i], "-")
}
