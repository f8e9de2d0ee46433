output "addresses" {
  description = "Internal address of each instance."
  value = merge(
    { etcd = google_compute_address.etcd.address },
    { for name, address in google_compute_address.cell : name => address.address },
  )
}

output "ssh" {
  description = "Commands that open a shell on each instance."
  value = {
    for instance in concat([google_compute_instance.etcd], values(google_compute_instance.cell)) :
    instance.name => "gcloud compute ssh --project ${var.project} --zone ${instance.zone} ${instance.name}"
  }
}
